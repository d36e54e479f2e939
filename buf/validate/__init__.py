"""Generated from protos/ by `make generate-protos`. Do not edit."""
