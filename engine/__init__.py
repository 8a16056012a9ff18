"""Signet's library: audits what preference data and reward models value. Knows no Streamlit."""

__version__ = "0.1.0"
