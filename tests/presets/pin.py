"""Write all settings of all presets to `pinned_presets.json`, after a change that is intended.

python -m tests.presets.pin
"""

import json
from pathlib import Path

from hvd_dqn.presets import PRESETS

PINNED = Path(__file__).with_name("pinned_presets.json")

if __name__ == "__main__":
    settings = {name: preset().flat() for name, preset in PRESETS.items()}
    PINNED.write_text(json.dumps(settings, indent=1) + "\n")
