"""A page on which one watches a network look: its own drawing or photograph, glimpse by glimpse."""
