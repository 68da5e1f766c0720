"""Basics that every other package may use; imports no other package."""
