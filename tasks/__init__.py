"""Gesso's work: every step of the retraining, without Airflow. `python -m tasks` runs it."""
