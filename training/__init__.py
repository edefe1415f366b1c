"""How the models and the classifier inside the package were made. Not installed."""
