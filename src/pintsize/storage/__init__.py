"""Files: written whole or not at all, the record, resumable folders."""

from .network_file import load as load
from .network_file import save as save
