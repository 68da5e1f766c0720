"""What a run learns of the return and how: methods (network and loss), and schedules of settings.

Each method is one module, listed in `registry.METHODS`.
"""
