"""Torsos: from observations [B, *shape] to features [B, F]. One module each, listed in
`registry.TORSOS`.
"""
