"""The examples of a lecture on energy-based models, computed."""
