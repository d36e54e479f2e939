"""The Grafana dashboards of the chart, in Python: one module per dashboard, `parts` for what they share."""
