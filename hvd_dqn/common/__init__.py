"""What every other package may use; imports none of them."""
