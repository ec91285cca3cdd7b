"""A manager's figures: computed, kept, drawn and laid out. They are asked of the views of the schema `reporting`."""
