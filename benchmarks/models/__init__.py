"""The same models in each library's own layers, loaded with the same first weights."""
