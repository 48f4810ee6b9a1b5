// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Asn1, Evidence} from "./Evidence.sol";
import {Packing} from "./Packing.sol";
import {Wallet} from "./Test.sol";
import {Protocol} from "../Protocol.sol";
import {RunnerRegistry} from "../RunnerRegistry.sol";
import {Collateral} from "../attestation/Collateral.sol";
import {Platforms} from "../attestation/Platforms.sol";
import {Quotes} from "../attestation/Quotes.sol";

/// @dev A registry, and everything it is shown: what the vendor signs, what a quoting enclave signs, what a runner signs.
abstract contract Vendor is Evidence {
    address internal constant ESCROW = address(0xE5C);
    address internal constant VERIFIERS = address(0x5E7);
    address internal constant PROVIDER = address(0x1001);
    uint256 internal constant RUNNER = 0xA11CE;
    uint256 internal constant BLOCK = 1_000;
    uint64 internal constant NOT_AFTER = uint64(NOW + 1 hours);
    bytes internal constant HEADER =
        hex"040002008100000000000000939a7233f79c4ca9940a0db3957f06070000000000000000000000000000000000000000";
    bytes internal constant HEADER_5 =
        hex"050002008100000000000000939a7233f79c4ca9940a0db3957f06070000000000000000000000000000000000000000";
    string internal constant ZEROS = "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";
    bytes32 internal constant QE_SIGNER = keccak256("test quoting enclave signer");

    RunnerRegistry internal registry;

    /// @dev What is sent to register a runner.
    struct Made {
        Quotes.Quote quote;
        RunnerRegistry.Claim claim;
    }

    function open() internal {
        vm.warp(NOW);
        vm.roll(BLOCK);
        vm.chainId(31337);
        registry = deployed(true);
    }

    function deployed(bool development) internal returns (RunnerRegistry) {
        (bytes32 x, bytes32 y) = publicKey(ROOT);
        bytes memory arguments = abi.encode(address(this), ESCROW, VERIFIERS, development, x, y, nameHash(ROOT));
        return RunnerRegistry(vm.deployCode("RunnerRegistry.sol:RunnerRegistry", arguments));
    }

    /// @dev Reads what stands of the test's runner.
    function runner() internal view returns (RunnerRegistry.Runner memory it) {
        (it.provider, it.registeredAt, it.validUntil, it.workloadIndex, it.tee, it.status) =
            registry.runners(vm.addr(RUNNER));
    }

    /// @dev Posts everything a registration rests on.
    function postAll() internal {
        send(issuerCall(certificate(ROOT, PLATFORM_CA, 1, true), ROOT));
        send(issuerCall(certificate(ROOT, TCB_SIGNER, 2, false), ROOT));
        send(listCall(revocations(PLATFORM_CA, 1), PLATFORM_CA));
        send(pckCall(pckCertificate(7), PLATFORM_CA));
        send(infoCall(tcbInfo(), TCB_SIGNER));
        send(identityCall(qeIdentity(), TCB_SIGNER));
        registry.approve(workloadOf(body()));
    }

    function send(bytes memory call) internal {
        (bool ok, bytes memory answer) = address(registry).call(call);
        if (ok) return;
        assembly ("memory-safe") {
            revert(add(answer, 0x20), mload(answer))
        }
    }

    /// @dev Fails unless the registry refuses with exactly this error.
    function refused(bytes memory call, bytes memory with) internal {
        (bool ok, bytes memory answer) = address(registry).call(call);
        require(!ok, "was taken");
        assertEq(keccak256(answer), keccak256(with));
    }

    function refused(bytes memory call, bytes4 with) internal {
        refused(call, abi.encodePacked(with));
    }

    function issuerOf(string memory name) internal view returns (bytes32) {
        (bytes32 x, bytes32 y) = publicKey(name);
        return registry.issuerId(x, y, nameHash(name));
    }

    function issuerCall(Tbs memory tbs, string memory signer) internal view returns (bytes memory) {
        bytes memory der = written(tbs);
        (bytes32 r, bytes32 s) = signP256(signer, der);
        return abi.encodeCall(registry.addIssuer, (der, r, s));
    }

    function pckCall(Tbs memory tbs, string memory signer) internal view returns (bytes memory) {
        bytes memory der = written(tbs);
        (bytes32 r, bytes32 s) = signP256(signer, der);
        (bytes32 x, bytes32 y) = publicKey(signer);
        return abi.encodeCall(registry.registerPck, (der, r, s, x, y));
    }

    function listCall(TbsList memory list, string memory signer) internal view returns (bytes memory) {
        return listCall(list, signer, new uint256[](0));
    }

    function listCall(TbsList memory list, string memory signer, uint256[] memory offsets)
        internal
        view
        returns (bytes memory)
    {
        bytes memory der = written(list);
        (bytes32 r, bytes32 s) = signP256(signer, der);
        (bytes32 x, bytes32 y) = publicKey(signer);
        return abi.encodeCall(registry.postCrl, (Packing.literally(der), r, s, x, y, offsets));
    }

    /// @dev Revokes one certificate by a list that names it alone.
    function revocationCall(string memory issuer, uint256 serial, uint256 number) internal view returns (bytes memory) {
        TbsList memory list = revocations(issuer, number);
        list.entries = Asn1.sequence(entry(serial));
        bytes memory head = bytes.concat(list.version, list.algorithm, list.issuer, list.thisUpdate, list.nextUpdate);
        uint256[] memory offsets = new uint256[](1);
        // The list's own tag and length, then those of its entries.
        offsets[0] = head.length + (written(list)[1] == 0x81 ? 3 : 2) + 2;
        return listCall(list, issuer, offsets);
    }

    function signerOf(string memory name) internal pure returns (Collateral.Signer memory) {
        (bytes32 x, bytes32 y) = publicKey(name);
        return Collateral.Signer(x, y, nameHash(name));
    }

    function infoCall(string memory text, string memory signer) internal view returns (bytes memory) {
        (bytes32 r, bytes32 s) = signP256(signer, bytes(text));
        return abi.encodeCall(registry.postTcbInfo, (signerOf(signer), Packing.literally(bytes(text)), r, s));
    }

    function identityCall(string memory text, string memory signer) internal view returns (bytes memory) {
        (bytes32 r, bytes32 s) = signP256(signer, bytes(text));
        return abi.encodeCall(registry.postQeIdentity, (signerOf(signer), Packing.literally(bytes(text)), r, s));
    }

    string internal constant DATES = '"issueDate":"2026-05-25T00:00:00Z","nextUpdate":"2026-06-24T00:00:00Z';

    function tcbInfo() internal pure returns (string memory) {
        return tcbInfo(DATES, "18", modules(), levels());
    }

    function tcbInfo(string memory dates, string memory evaluation, string memory modules_, string memory levels_)
        internal
        pure
        returns (string memory)
    {
        return string.concat(
            '{"id":"TDX","version":3,',
            dates,
            '","fmspc":"00A55A700000","pceId":"0000","tcbType":0,"tcbEvaluationDataNumber":',
            evaluation,
            ',"tdxModule":{"mrsigner":"',
            ZEROS,
            '","attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF"},',
            modules_,
            '"tcbLevels":[',
            levels_,
            "]}"
        );
    }

    function modules() internal pure returns (string memory) {
        return string.concat('"tdxModuleIdentities":[', module("01", versionLevel("5", "UpToDate")), "],");
    }

    function module(string memory major, string memory levels_) internal pure returns (string memory) {
        return string.concat(
            '{"id":"TDX_',
            major,
            '","mrsigner":"',
            ZEROS,
            '","attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF","tcbLevels":[',
            levels_,
            "]}"
        );
    }

    function versionLevel(string memory svn_, string memory status) internal pure returns (string memory) {
        return string.concat('{"tcb":{"isvsvn":', svn_, '},"tcbDate":"2026-01-01T00:00:00Z","tcbStatus":"', status, '"}');
    }

    /// @dev What the platform reaches, and one it would fall back to.
    function levels() internal pure returns (string memory) {
        return string.concat(level("5", "2", "13", "UpToDate"), ",", level("2", "0", "5", "OutOfDate"));
    }

    /// @dev One level: the eight lower SGX components, the third TDX component, PCESVN.
    function level(string memory sgx, string memory tdx, string memory pceSvn, string memory status)
        internal
        pure
        returns (string memory)
    {
        string memory eight;
        for (uint256 i = 0; i < 8; i++) eight = string.concat(eight, '{"svn":', sgx, "},");
        string memory zeros = '{"svn":0}';
        for (uint256 i = 1; i < 8; i++) zeros = string.concat(zeros, ',{"svn":0}');
        return string.concat(
            string.concat('{"tcb":{"sgxtcbcomponents":[', eight, zeros, '],"pcesvn":', pceSvn),
            string.concat(',"tdxtcbcomponents":[{"svn":0},{"svn":0},{"svn":', tdx, '},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},'),
            string.concat(zeros, ']},"tcbDate":"2026-01-01T00:00:00Z","tcbStatus":"', status, '"}')
        );
    }

    function qeIdentity() internal pure returns (string memory) {
        return qeIdentity(DATES, "18", versionLevel("4", "UpToDate"));
    }

    function qeIdentity(string memory dates, string memory evaluation, string memory levels_)
        internal
        pure
        returns (string memory)
    {
        return string.concat(
            string.concat('{"id":"TD_QE","version":2,', dates, '","tcbEvaluationDataNumber":', evaluation),
            ',"miscselect":"00000000","miscselectMask":"FFFFFFFF","attributes":"11000000000000000000000000000000","attributesMask":"FBFFFFFFFFFFFFFF0000000000000000","mrsigner":"',
            hexadecimal(QE_SIGNER),
            '","isvprodid":2,"tcbLevels":[',
            levels_,
            "]}"
        );
    }

    function hexadecimal(bytes32 value) private pure returns (string memory) {
        bytes memory digits = new bytes(64);
        for (uint256 i = 0; i < 64; i++) digits[i] = bytes("0123456789ABCDEF")[uint256(value) >> (252 - 4 * i) & 15];
        return string(digits);
    }

    /// @dev A TD report's body, without its report data; 584 bytes, to which TDX 1.5 appends 64.
    function body() internal pure returns (bytes memory b) {
        b = new bytes(584);
        (b[0], b[1], b[2]) = (0x05, 0x01, 0x02);
        b[123] = 0x10;
        (b[128], b[129], b[130]) = (0xe7, 0x02, 0x06);
        for (uint256 i = 136; i < 232; i++) b[i] = bytes1(uint8(i));
        for (uint256 i = 328; i < 520; i++) b[i] = bytes1(uint8(i >> 1));
    }

    /// @dev The current TEE_TCB_SVN, the same as at launch.
    function laterBody() internal pure returns (bytes memory) {
        return bytes.concat(body(), hex"050102", new bytes(61));
    }

    function slice(bytes memory data, uint256 from, uint256 to) internal pure returns (bytes memory part) {
        part = new bytes(to - from);
        for (uint256 i = from; i < to; i++) part[i - from] = data[i];
    }

    function workloadOf(bytes memory b) internal pure returns (bytes32) {
        return sha256(
            bytes.concat(
                "ASY1wrkl", slice(b, 136, 184), slice(b, 328, 520), slice(b, 184, 232), slice(b, 128, 136), slice(b, 120, 128)
            )
        );
    }

    function platformKey() internal view returns (Platforms.PlatformKey memory) {
        (bytes32 x, bytes32 y) = publicKey(PCK);
        return Platforms.PlatformKey(issuerOf(PLATFORM_CA), 7, x, y);
    }

    /// @dev A report of the quoting enclave that vouches for the attestation key.
    function qeReport(bytes memory authData) internal pure returns (bytes memory) {
        (bytes32 x, bytes32 y) = publicKey("attestation");
        return bytes.concat(
            bytes.concat(new bytes(48), hex"11", new bytes(79), QE_SIGNER, new bytes(96)),
            bytes.concat(hex"02000400", new bytes(60), sha256(bytes.concat(x, y, authData)), new bytes(32))
        );
    }

    function quoteOf(bytes memory signed) internal view returns (Quotes.Quote memory quote) {
        quote.signed = signed;
        (quote.r, quote.s) = signP256("attestation", signed);
        (quote.attestationX, quote.attestationY) = publicKey("attestation");
        quote.qeAuthData = hex"00010203";
        quote.qeReport = qeReport(quote.qeAuthData);
        (quote.qeR, quote.qeS) = signP256(PCK, quote.qeReport);
        quote.platform = platformKey();
    }

    function claimOf(uint256 runner) internal view returns (RunnerRegistry.Claim memory claim) {
        Wallet memory wallet = vm.createWallet(runner);
        (claim.signerX, claim.signerY) = (bytes32(wallet.publicKeyX), bytes32(wallet.publicKeyY));
        (claim.hpkeKey, claim.gpuEvidence) = (keccak256("hpke"), keccak256("gpu"));
        (claim.nonceBlock, claim.notAfter) = (uint64(BLOCK - 1), NOT_AFTER);
        claim.provider = PROVIDER;
    }

    /// @dev The statement's digest, as a runner computes it.
    function digestOf(RunnerRegistry.Claim memory claim, bytes32 workload, bytes32 nonce) internal view returns (bytes32) {
        return sha256(
            bytes.concat(
                abi.encodePacked(bytes8("ASYDstmt"), uint64(31337), address(registry)),
                abi.encodePacked(uint256(claim.signerY) % 2 == 0 ? bytes1(0x02) : bytes1(0x03), claim.signerX, claim.hpkeKey),
                abi.encodePacked(nonce, claim.gpuEvidence, workload, claim.notAfter)
            )
        );
    }

    /// @dev Signs a claim by the runner's key.
    function sealClaim(RunnerRegistry.Claim memory claim, uint256 runner, bytes32 digest) internal view {
        bytes32 typed =
            Protocol.registrationDigest(Protocol.domainSeparator(ESCROW), vm.addr(runner), claim.provider, digest);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(runner, typed);
        (claim.r, claim.yParityAndS) = (r, bytes32(uint256(v - 27) << 255 | uint256(s)));
    }

    /// @dev Puts into a body what ties it to a statement.
    function bind(bytes memory b, uint256 runner, uint64 notAfter, bytes32 digest) internal pure {
        bytes memory data = abi.encodePacked(vm.addr(runner), bytes4("ASYD"), notAfter, digest);
        for (uint256 i = 0; i < 64; i++) b[520 + i] = data[i];
    }

    function made(bytes memory head, bytes memory b) internal view returns (Made memory it) {
        return made(head, b, claimOf(RUNNER), RUNNER);
    }

    function made(bytes memory head, bytes memory b, RunnerRegistry.Claim memory claim, uint256 runner)
        internal
        view
        returns (Made memory it)
    {
        bytes32 digest = digestOf(claim, workloadOf(b), blockhash(claim.nonceBlock));
        bind(b, runner, claim.notAfter, digest);
        sealClaim(claim, runner, digest);
        it.claim = claim;
        it.quote = quoteOf(bytes.concat(head, b));
    }

    function sound() internal view returns (Made memory) {
        return made(HEADER, body());
    }

    function registerCall(Made memory it) internal view returns (bytes memory) {
        return abi.encodeCall(registry.register, (it.quote, it.claim));
    }
}
