"""A manager's figures: computed, kept, drawn and laid out. What they are asked of are the views of the schema `reporting`."""
