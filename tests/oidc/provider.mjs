// A real OpenID Connect provider on the loopback, for the tests: discovery, login and
// consent pages, PKCE demanded, and claims at the userinfo endpoint.
//
//   node provider.mjs PORT REDIRECT_URI CLIENT_ID CLIENT_SECRET MODULES
//
// Whoever logs in as `jane@example.com` has that address, verified; as
// `unverified:jane@example.com` the provider has not verified it. Any password will do.

import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [port, redirectUri, clientId, clientSecret, modules] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));

const UNVERIFIED = 'unverified:';

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{
    client_id: clientId,
    client_secret: clientSecret,
    redirect_uris: [redirectUri],
    grant_types: ['authorization_code'],
    response_types: ['code'],
  }],
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
  pkce: { required: () => true },
  features: { devInteractions: { enabled: true } },
  findAccount: (_context, id) => ({
    accountId: id,
    claims: () => ({
      sub: id,
      email: id.replace(UNVERIFIED, ''),
      email_verified: !id.startsWith(UNVERIFIED),
      name: 'Jane of the Provider',
    }),
  }),
});

provider.listen(Number(port), '127.0.0.1');
