"""Label Studio's own SDK checks exported tasks: `python label_studio_sdk_check.py FOLDER`, in `.venv-label-studio`."""

import json
import sys
from pathlib import Path


def main(folder: str) -> None:
    """Prints by file how many annotations are valid, and every problem."""
    from label_studio_sdk.label_interface import LabelInterface

    found, problems = {}, []
    for config in sorted(Path(folder).glob("*.xml")):
        interface = LabelInterface(config.read_text(encoding="utf-8"))
        interface.validate()
        tasks = json.loads(config.with_suffix(".json").read_text(encoding="utf-8"))
        for task in tasks:
            if not interface.validate_task({"data": task["data"]}):
                problems.append(f"{config.name}: data of {task['data']['record']}")
            for annotation in task["annotations"]:
                problems += interface.validate_prediction(annotation, return_errors=True)
                found[config.stem] = found.get(config.stem, 0) + bool(interface.validate_annotation(annotation))
    print(json.dumps({"valid": found, "problems": problems}))


if __name__ == "__main__":
    main(*sys.argv[1:])
