"""The recipe: every option of every technique, declared once; one module a technique."""
