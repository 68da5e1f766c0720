"""How fast it is, measured by anybody on their own machine."""
