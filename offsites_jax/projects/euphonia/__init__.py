"""Personal speech recognition for people with disordered speech: one recogniser for each speaker."""
