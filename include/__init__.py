"""What lets Airflow drive the work in `tasks`."""
