"""One call: who publishes, who watches, what is said in it."""
