"""Time as it is: networks run on the target a user names, and a latency model made of that."""
