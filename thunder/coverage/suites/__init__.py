"""The suites of the coverage command, one module each; see `thunder.coverage.registry`."""
