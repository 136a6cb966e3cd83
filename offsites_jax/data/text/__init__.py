"""Text beside speech: normalising before scoring, tokenizers trained from text, word and character errors."""
