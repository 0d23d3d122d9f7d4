// Charges by stripe-node: a line of JSON on standard input is a charge to make, a line on standard output what came of it.
const { createInterface } = require('node:readline');
const Stripe = require('stripe');

async function charge({ port, secret, key, amount, source }) {
    const stripe = new Stripe(secret, { host: '127.0.0.1', port, protocol: 'http', telemetry: false });
    try {
        const options = key ? { idempotencyKey: key } : {};
        const made = await stripe.charges.create({ amount, currency: 'eur', source }, options);
        return { id: made.id, replayed: made.lastResponse.headers['idempotent-replayed'] ?? null };
    } catch (error) {
        return { error: error.type, status: error.statusCode ?? null, message: error.message };
    }
}

(async () => {
    for await (const line of createInterface({ input: process.stdin })) {
        console.log(JSON.stringify(await charge(JSON.parse(line))));
    }
})();
