"""`python -m bench trust`: the options of each check."""
