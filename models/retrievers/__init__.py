"""One module a retriever; what several of them share stands beside them."""
