"""One module per framework: the NeuronSpecs of its classes."""
