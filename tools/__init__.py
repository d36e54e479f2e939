"""Programs for those who change this repository; run as `python -m tools.NAME`."""
