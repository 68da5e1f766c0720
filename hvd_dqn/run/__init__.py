"""One run from start to end: what it acquires, its components, and how it is saved and resumed."""
