"""How results are shown: tables, figures, an HTML report, and runs in MLflow."""
