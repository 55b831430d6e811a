"""Pages on Gesso's runs inside the Airflow UI: report, ledger, history. Server-rendered HTML; `app.py` has the routes.

Whoever may see a run in Airflow may see its pages; whoever may edit the run may save a review. What is shown comes from
the store, read with the API server's own credentials, and only from the run's record and the artifacts it names.
"""
