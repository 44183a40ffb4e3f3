"""Commands about files of weights: `import`, `export`, `inspect`."""
