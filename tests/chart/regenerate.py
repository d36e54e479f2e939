"""Writes what is made from the code and the values: `python -m tests.chart.regenerate`."""

from tests.chart import generated
from tests.chart.rendering import GOLDEN, SCENARIOS


def main() -> None:
    """Writes the schema first: Helm checks the values with it."""
    generated.SCHEMA.write_text(generated.schema())
    generated.README.write_text(generated.readme())
    GOLDEN.mkdir(exist_ok=True)
    for scenario in SCENARIOS:
        (GOLDEN / f"{scenario}.yaml").write_text(generated.golden(scenario))
    for path in GOLDEN.glob("*.yaml"):
        if path.stem not in SCENARIOS:
            path.unlink()


if __name__ == "__main__":
    main()
