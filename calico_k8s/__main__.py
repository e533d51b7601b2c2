"""``python -m calico_k8s``: the program, where its script is not on the path."""

from calico_k8s.cli.main import main

if __name__ == "__main__":
    main()
