# The page of page.py at port 7860, by the model that comes along (non-commercial research only):
#   docker build -t coral-age . && docker run --rm -p 127.0.0.1:7860:7860 coral-age
# Another command: docker run --rm -v "$PWD:/data" coral-age predict photo.jpg --out predictions
FROM python:3.12-slim
COPY pyproject.toml README.md LICENSE /project/
COPY model-code /project/model-code
# torch for CPUs, gigabytes smaller: its versions there, 2.14.1+cpu, count as newer
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu /project && rm -r /project
WORKDIR /data
EXPOSE 7860
ENTRYPOINT ["coral-age"]
CMD ["page", "--host", "0.0.0.0"]
