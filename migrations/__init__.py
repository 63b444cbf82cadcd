"""Alembic's migrations; `strata db` runs them, also from an installed wheel."""
