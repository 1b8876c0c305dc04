// Creates a container in a Blob service: node azure-container.js PORT ACCOUNT KEY CONTAINER
const crypto = require("crypto");
const http = require("http");

const [port, account, key, container] = process.argv.slice(2);
const date = new Date().toUTCString();
const version = "2021-08-06";
const signed =
    "PUT" + "\n".repeat(12) + `x-ms-date:${date}\nx-ms-version:${version}\n/${account}/${account}/${container}\nrestype:container`;
const signature = crypto.createHmac("sha256", Buffer.from(key, "base64")).update(signed).digest("base64");
const headers = {
    "x-ms-date": date,
    "x-ms-version": version,
    "content-length": 0,
    authorization: `SharedKey ${account}:${signature}`,
};
const request = http.request(
    { host: "127.0.0.1", port, method: "PUT", path: `/${account}/${container}?restype=container`, headers },
    (response) => {
        response.pipe(process.stderr);
        process.exitCode = response.statusCode === 201 ? 0 : 1;
    },
);
request.end();
