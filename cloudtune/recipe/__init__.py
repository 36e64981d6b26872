"""The recipe's words; light to import, the trainer imports it too."""
