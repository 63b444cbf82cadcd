"""Fixtures that any test may ask for."""

pytest_plugins = ["tests.databases", "tests.redis_server", "tests.s3_server"]
