"""A character GPT whose attention is a rung: what a kernel of the ladder is for.

    attend        attention by a rung, as the model calls it
    model         the network, and the keys and values it keeps between steps
    tokenizer     characters as numbers
    checkpoint    a model, its tokenizer and its training as one file
    text          the text to train on, and the windows cut from it
    train         training
    generate      text from a model
    parts         attention alone: what it computes, its time and its memory
    access        a tensor's elements by their address
    figures       loss.png, and the time per token
    cli           the command line behind gpt.py
    train_cli     that of gpt.py train and gpt.py evaluate
    speak         samples on a terminal, and how fast they come

docs/gpt.md tells what to do with it.
"""
