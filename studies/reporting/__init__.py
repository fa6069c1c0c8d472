"""Tables, figures, reports and MLflow."""
