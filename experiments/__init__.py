"""The paper's experiments, each by one command: runs in folders, tables and figures from the runs' files."""
