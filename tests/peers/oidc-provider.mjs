// An OpenID provider for the tests: the npm package `oidc-provider`, below the directory NODE_MODULES.
//
// It prints {"issuer"}, reads one line {"clients","people","idTokenClaims"} and prints {"ready":true}. Its sign-in
// page takes any password; `people` maps a login to claims.
import { createServer } from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const module = join(process.env.NODE_MODULES, 'oidc-provider', 'lib', 'index.js');
const { default: Provider } = await import(pathToFileURL(module));

const server = createServer();
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;
console.log(JSON.stringify({ issuer }));

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { clients, people, idTokenClaims } = JSON.parse((await lines.next()).value);

const provider = new Provider(issuer, {
  clients,
  claims: {
    openid: ['sub'],
    email: ['email', 'email_verified'],
    profile: ['name', 'groups', 'department'],
  },
  conformIdTokenClaims: !idTokenClaims,
  cookies: { keys: ['a key of the tests'] },
  pkce: { methods: ['S256'], required: () => true },
  findAccount: (_, login) => ({
    accountId: login,
    claims: () => ({ sub: login, ...people[login] }),
  }),
});
server.on('request', provider.callback());
console.log(JSON.stringify({ ready: true }));

// Ends with whoever started it.
await lines.next();
process.exit(0);
