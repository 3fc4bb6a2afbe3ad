"""`python -m cymdn` prints the configuration."""

from cymdn import show_config

show_config()
