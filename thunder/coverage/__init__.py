"""Coverage: suites of models, operators and random programs, run under a compiler and compared with eager."""
