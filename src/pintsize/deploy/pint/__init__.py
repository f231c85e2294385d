"""The `.pint` file: a network in the fewest bytes."""
