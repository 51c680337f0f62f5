"""The known command for `publish`: `python -m train.publish`."""

from publish.model import main

if __name__ == "__main__":
    main()
