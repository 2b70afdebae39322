"""Training loop, configurations, figures and benchmarks; installs as lsc_snn.experiments."""
