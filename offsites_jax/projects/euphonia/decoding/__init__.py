"""From a trained transducer to text: greedy, by beam, from whole recordings and from streams."""
