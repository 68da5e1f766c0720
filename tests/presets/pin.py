"""Pin every setting of every preset:

python -m tests.presets.pin
"""

from __future__ import annotations

import json
from pathlib import Path

from hvd_dqn.presets import PRESETS

PINNED = Path(__file__).with_name("pinned_presets.json")

if __name__ == "__main__":
    settings = {name: make().flat() for name, make in PRESETS.items()}
    PINNED.write_text(json.dumps(settings, indent=1) + "\n")
