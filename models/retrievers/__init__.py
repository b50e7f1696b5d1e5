"""One module and one config module per retriever, beside modules that several of them share."""
