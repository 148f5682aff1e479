"""Write every canonical form anew: `python -m tests.corpus`."""

import json

from tests.corpus import HERE, NAMES, fresh

for name in NAMES:
    (HERE / name / "canonical.json").write_text(json.dumps(fresh(name), indent=1, sort_keys=True) + "\n")
print(f"{len(NAMES)} canonical forms written")
